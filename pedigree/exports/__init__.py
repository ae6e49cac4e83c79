"""What leaves the project about one model, in formats that other tools read and verify."""
