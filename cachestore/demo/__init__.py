"""The whole system on real input: users ask about documents, which are computed once.

documents   what is asked
asking      one question to the gateway, and what it took
scenes      what happens while users ask, each scene with its verdict
run         the scenes in order, on a cluster of our own
"""
