"""What a cache holds: tables, sample rows, the report, the memory that training will take."""
