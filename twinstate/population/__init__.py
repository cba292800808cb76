"""From a patient's covariates to typical parameters and the first prior."""
