"""Other tools under benchmarks/quality.py: one module each, run in an environment of the tool's own."""
