"""The paper's numbers (``reported``) and our own (``measured``), never mixed."""
