//! repository/mod
