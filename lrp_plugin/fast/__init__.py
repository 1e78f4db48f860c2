"""How a rule is computed quickly: nothing here changes what a rule says. ``LRP_FAST=0`` in the environment rules it out."""
