"""Interfaces to other projects, a module each. The lower packages import nothing from here."""
