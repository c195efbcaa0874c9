"""``rsp-robot suite``: a protocol as jobs that can be killed, continued, spread over machines, and kept."""
