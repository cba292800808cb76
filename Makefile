# The front door. `make demo ARGS=--serve` and `make test ARGS="-k late"` pass arguments on.
.PHONY: setup demo test check bench faults lock

setup:          ## .venv from the lock; quick when nothing changed
	@.ci/setup
demo: setup     ## real patients through a real Kafka and Redis
	@.venv/bin/twin demo $(ARGS)
test: setup     ## every test, on the same real Kafka and Redis
	@.ci/test $(ARGS)
check: setup    ## format, lint, types, direction of imports, generated files
	@.ci/check
bench: setup    ## every benchmark, each with its table
	@.ci/bench $(ARGS)
faults: setup   ## the fault matrix, each row with its result in build/faults.json
	@.ci/faults $(ARGS)
lock: setup     ## requirements.lock and the lock of Kafka's jars, anew
	@.ci/lock
