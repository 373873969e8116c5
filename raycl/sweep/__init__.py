"""What a sweep is, wherever its trials run: plans, the ledger, the dispatcher, the run itself."""
