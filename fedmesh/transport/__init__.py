"""How bytes get from one party to another, and who is at the other end. Trusts nothing that it carries."""
