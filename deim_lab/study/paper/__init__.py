"""The paper's numbers (``reported``) and what was measured here (``measured``), never mixed."""
