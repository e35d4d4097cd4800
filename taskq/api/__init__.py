"""The HTTP API: QStash's protocol under /v2, and under /admin what that does not know."""
