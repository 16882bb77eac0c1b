"""The API of lvs-dr-operator as values and pure functions: parse, assign, resolve, status, schema."""
