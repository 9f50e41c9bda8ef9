"""Which tier or node holds a block, or should?

nearest  from which of its holders a block is read
shares   who gave more than its share, so that others should hold it, too
"""
