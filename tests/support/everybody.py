"""For tests whose processes are of any user."""

from __future__ import annotations

from ipcd_client.access.rules import VERBS, Rule

EVERYBODY = Rule("everybody", "allow", ("**",), VERBS, ("*",))
