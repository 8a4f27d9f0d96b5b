"""Who asks: accounts, users and tokens; who a credential speaks for; how much each may ask."""
