"""The store and its workers on a Ray cluster: Ray places, supervises and finds them; no KV goes through Ray.

settings       the `[cluster]` section
reach          whether a Ray is there and takes our token
runtime        a Ray of our own on this machine, or the one that is there
host           the store of one node, as an actor
stores         one such actor a node
replica        one prefill or decode worker, as a replica of Ray Serve
workers        so many replicas of each role
scaling        how many: as many as their queues ask for
gateways       OpenAI's interface before them, as Serve's ingress
gateway_health how it is
causes         what went wrong in another process
deploy         all of it up, and down again
supervisor     a process that keeps it up
"""
