// Loads etcd by its own client for Go: one client, which all calls share, as its documentation advises.
package main

import (
	"context"
	"time"

	"go.etcd.io/etcd/clientv3"
)

func main() {
	o := parse()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{o.to}, DialTimeout: 5 * time.Second})
	demand(err)
	value := string(o.value)
	put := func(number int64) error {
		_, err := client.Put(context.Background(), key(number), value)
		return err
	}
	get := func(number int64) error { // linearizable, because nothing else is asked for
		_, err := client.Get(context.Background(), key(number))
		return err
	}
	if o.kind == "read" {
		measure(o, get)
	} else {
		measure(o, put)
	}
}
