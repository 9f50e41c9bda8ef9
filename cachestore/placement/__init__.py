"""Which tier or node holds a block, or should?

nearest  from which of its holders a block is read
"""
