"""Benches of ``rsp-robot bench``: measured on one machine, in one run, against a plain formulation."""
