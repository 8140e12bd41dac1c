"""The daemon lio-handoverd: a host's verbs and handovers as objects on the system bus.

    message ─▶ dispatcher ─▶ polkit ─▶ objects ─▶ jobs ─▶ worker process ─▶ local/verbs.py

The main process touches neither configfs nor documents: an access that the kernel does not return
from hangs one worker process.  The service serves the XML in interfaces/, takes each method's
polkit action from it, and checks calls against it.
"""
