"""``rsp-robot digits``: the objectives on moving digits, where everything that moves is known."""
