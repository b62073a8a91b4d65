"""Named things that a node keeps, for any process of any node: what they are is in docs/primitives.md."""
