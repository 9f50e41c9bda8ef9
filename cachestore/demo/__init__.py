"""The whole path on real input: documents prefilled once, questions answered from the store.

documents   what is asked
larger      a model of random weights, large enough for first-token times to mean something
asking      one question, and what it took
scenes      the parts of the demo, each with its verdict
run         the scenes in order, on a cluster of our own
"""
