"""Admission: what an outside file or folder is, and whether it may come in.

    received = receive(path, store)          copied without following links, hashed on the way
    scan = scan_received(received)           judged on the copy: admitted, quarantined or rejected

Weights from elsewhere are code until shown otherwise. What a file is, its content decides and not
its name; what could not be looked at is never clean; nothing that is scanned is ever run.
"""
