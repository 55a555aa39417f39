"""What commands and flows both do, composed once from the rooms. Nothing here knows a command line or Prefect."""
