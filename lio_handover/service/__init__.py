"""The daemon lio-handoverd: a host's verbs and handovers as objects on the system bus.

    message ─▶ dispatch ─▶ authority ─▶ objects ─▶ jobs ─▶ child process (worker) ─▶ the façade

The main process touches neither configfs nor documents: what the kernel, or a file, does not
come back from is lost with one child.  The XML in interfaces/ is the contract: it is served, it
says who may call what, and calls are checked against it.
"""
