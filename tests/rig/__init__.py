"""The project's own rig: real kernels with ip_vs and a real Kubernetes, on a machine that has neither.

``python -m tests.rig help`` lists what it does; ``docs/rig.md`` says how. Standard library and PyYAML only.
"""
