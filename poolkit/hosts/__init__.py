"""Where pools are used: web frameworks, MCP servers, a page to watch them."""
