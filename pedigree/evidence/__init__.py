"""Evidence: signed statements, the policy, verdicts and the gate that reads them."""
