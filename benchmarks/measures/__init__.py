"""One file per measurement: `produce` runs in the contestant's driver, `run` on the stage."""
