"""HTTP. Starlette lives here and nowhere else; no room below knows a status code."""
