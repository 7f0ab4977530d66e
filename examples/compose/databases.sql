-- Run once by the image of PostgreSQL: the accounts, beside Aegra's own database.
CREATE DATABASE accounts;
