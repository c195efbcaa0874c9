"""``rsp-robot doctor``: what this machine has, what is missing and how to mend it."""
