"""What operators do to a running system: count workers, purge and migrate queues, bring dead letters back, examine.

Knows the ports, never an adapter; the command line (and later the HTTP API) prints what happens here.
"""
