"""What runs inside the sandbox: each module has a function of a `WorkerRequest`."""
