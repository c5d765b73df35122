"""At home where programs run: WSGI servers, Flask, MCP servers, a page to watch the pools."""
