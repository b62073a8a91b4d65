"""Who may do what: identities, and rules about them. Pure. The daemon decides by them; `ipcctl rules` checks them."""
