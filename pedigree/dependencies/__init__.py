"""What training and serving are built on: installed distributions, containers, known flaws."""
