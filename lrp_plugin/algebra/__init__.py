"""What rules are made of: a call as a rule sees it, formulas, and operations whose backward pass is changed."""
