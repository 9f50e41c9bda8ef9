"""How is the server, and how does it end what cannot go on?

servicer         what it says of itself, for the whole, each tier and each path
probing, canary  how it knows: blocks that are put, read back and removed
draining         an end in order
stalls           peers that move nothing are cut off
"""
