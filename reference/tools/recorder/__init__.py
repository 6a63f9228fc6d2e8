"""The parts of record_activations.py."""
