"""At home where programs run: WSGI servers, Flask."""
