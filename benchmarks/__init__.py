"""Speed and memory of taskq beside its peers; `python -m benchmarks` runs it, README.md says how to read it."""
