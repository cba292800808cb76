"""The pharmacological digital twin as pure mathematics: no broker, store, clock or HTTP."""
