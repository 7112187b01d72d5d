module github.com/keelson-io/keelson

go 1.26
