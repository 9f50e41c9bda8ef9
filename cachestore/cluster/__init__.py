"""The store and its workers on a Ray cluster: Ray places, supervises and finds them; no KV goes through Ray.

settings   the `[cluster]` section
runtime    a Ray of our own on this machine, or the one that is there
host       the store of one node, as an actor
replica    one prefill or decode worker, as a replica of Ray Serve
deploy     all of it up, and down again
"""
