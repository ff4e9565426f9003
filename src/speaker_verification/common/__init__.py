"""Ground floor: errors, tables, atomic writes, settings base, device."""
