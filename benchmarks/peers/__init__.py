"""One file per contestant, each with its task, its safe settings and the same small interface (`base.Peer`)."""
