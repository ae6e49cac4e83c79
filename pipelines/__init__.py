"""How it is wired and launched: definitions, jobs, resources and IO."""
