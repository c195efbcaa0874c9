"""Benches of ``rsp-robot bench``: measured on one machine, in one run, against the plain formulation of the same thing."""
