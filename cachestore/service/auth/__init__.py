"""Who calls, and what may they do?

identity   a caller that is known: name, namespace, role
settings   one `[[service.identities]]`
authority  who makes a call, from what the caller shows
tokens     secrets that name a caller, and a gateway's word on a tenant
gateway    whose word that is
methods    what a caller must be to call a method
guard      what stands around every method
shares     what one caller may hold of what all share
tls, credentials, files   keys: taken from files, shown, kept
validity   what no client would take is not shown
certificates, issuing   and made, for development
exposure   a server that anybody could reach says so
"""
