"""Messages that are HTTP requests: what is to be sent, how it is delivered, and what follows from the answer."""
